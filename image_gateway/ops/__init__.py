"""The ops port: the state of an instance, for people and programs.

``snapshot`` collects the state from the application's context and decides nothing.  ``page`` draws
it as HTML and SVG that need no script; the script in ``page.js`` only fetches the same page again
and copies the changes, so that the page is drawn in one place.  ``server`` answers the requests,
and ``own_names`` says which are meant for it.
"""
