"""The adapters of this project's own families, one module or package a family.

They are found through the entry-point group ``intervene.adapters``, as any other package's adapters are.
Nothing is imported here, so that reaching for one family doesn't load the others.
"""
