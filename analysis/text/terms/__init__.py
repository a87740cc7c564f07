"""Terms of documents: how often each occurs, TF-IDF, and stop words.

Imports the modules of `text` that split text into words.
"""
