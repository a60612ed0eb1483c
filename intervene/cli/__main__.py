"""``python -m intervene.cli``, for where the script isn't on the path."""

from . import app

app()
