"""Small tools that every layer may use: files, processes, optional imports, learning-rate schedules."""
