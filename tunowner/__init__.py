"""tunowner: which program opened this flow, and where should it go?"""

__version__ = "0.1.0"
