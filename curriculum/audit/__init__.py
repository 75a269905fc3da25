"""Is an artifact whole, and what does each step of an order hold?"""
