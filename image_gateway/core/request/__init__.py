"""What a client asks for: parameters, pictures, and whether a call wants a picture at all.

The rules of the Images API are data (the catalogue) and what a table cannot say.  The result is a
value that needs no further check.  Nothing here knows accounts; whether one can serve the request
is ``core.routing.capability``.  Start with ``image_request.parse``.
"""
