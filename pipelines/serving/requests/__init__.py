"""Reading of requests: texts, headers, and conversations that go on over several requests.

Imports `serving.errors`, and of `analysis` how chats are read.
"""
