"""Supervisor, workers and control of YADTQ; see ARCHITECTURE.md for the map."""
