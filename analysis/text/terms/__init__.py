"""Terms of documents: how often each occurs, TF-IDF, and the words that are no topic.

Imports the modules of `text` that split text into words.
"""
