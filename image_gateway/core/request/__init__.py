"""The client's request: its parameters and pictures, and whether it asks for a picture at all.

The rules of the Images API are a table (the catalogue), plus code for rules that do not fit into
it.  The result is a value that needs no further check.  Nothing here knows accounts; whether one
can serve the request is decided in ``core.routing.capability``.  Start with
``image_request.parse``.
"""
