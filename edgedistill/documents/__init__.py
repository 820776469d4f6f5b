"""The JSON documents by their shapes: what the report, measurements and answers hold, as TypedDicts. Nothing runs here.

They are dicts with names for type checkers, so that no key is misspelt, and pydantic reads, checks and describes them
(`reading.py`). A field that is added later is `NotRequired`: reports that were made before stay readable.
"""
