"""The adapters of this project's own families, one module a family.

They are found through the entry-point group ``intervene.adapters``, as any other package's adapters are.
Nothing is imported here, so that reaching for one family doesn't load the others.

A module whose name begins with an underscore is no family: it has what several share, or what one needs beside its
table. ``_<family>_models.py`` says how the family's models are recognised, described, called and made.
"""
