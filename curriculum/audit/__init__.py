"""Is an artifact intact, and what does each step of an order contain?"""
