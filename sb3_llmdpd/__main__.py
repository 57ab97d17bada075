"""``python -m sb3_llmdpd`` is the command ``sb3-llmdpd``."""

from sb3_llmdpd.cli import main

if __name__ == "__main__":
    main()
