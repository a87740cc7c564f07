"""Reading of requests: texts, headers, and conversations that span several requests.

Imports `serving.errors`, and the reading of chats from `analysis`.
"""
