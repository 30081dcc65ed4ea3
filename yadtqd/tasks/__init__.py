"""The task types that ship with YADTQ."""
