"""What two or more systems share. Importing it loads nothing heavy."""
