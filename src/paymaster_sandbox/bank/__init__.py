"""Sandbank: takes payment files over SFTP, answers with pain.002 and camt statements."""
