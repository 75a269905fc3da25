"""May this run resume here, from where, and with which changes?"""
