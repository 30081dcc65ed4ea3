"""One module a measured system: its tasks, how its workers are started, and what its client does.

Each runs in the environment of its system, never in the measuring process, which reads only `systems.catalogue`.
"""
