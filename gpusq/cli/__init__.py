"""The commands: arguments in, lines and exit codes out; the only code that prints."""
