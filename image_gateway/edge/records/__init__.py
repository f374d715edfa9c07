"""The log on disk: written in the background, rotated, and read again by commands.

What a record holds is decided in ``core.records``.  Start with ``writer``.
"""
