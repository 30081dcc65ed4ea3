"""YADTQ."""
__all__: list[str] = []
