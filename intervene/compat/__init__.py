"""Other libraries' public names over this one, so that code written for them runs after changing an import.

`pyvene` is `import intervene.compat.pyvene as pv`; ``docs/coming-from-pyvene.md`` says what differs.
"""
