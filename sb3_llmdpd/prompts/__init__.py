"""What a user says about a task, and how it becomes vectors."""
