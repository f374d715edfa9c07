"""How the gateway is, for whoever looks: gathered in ``snapshot``, shown to people by ``page``.

``snapshot`` asks the application's context and decides nothing.  ``page`` draws what it found, as
HTML and SVG that need no script; the script in ``page.js`` only fetches the same page again and
takes over what has changed, so that there is one place where it is drawn.
"""
