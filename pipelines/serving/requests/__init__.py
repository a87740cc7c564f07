"""What is read from a request and kept for the next: its texts, headers and conversations.

Imports `serving.errors`, and of `analysis` how chats are read.
"""
