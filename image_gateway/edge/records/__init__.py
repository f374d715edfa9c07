"""The log on disk: written in the background, rotated, and read again by commands.

``core.records`` decides what a record holds.  Start with ``writer``.
"""
