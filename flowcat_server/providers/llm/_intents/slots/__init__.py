"""Values in what a caller said: days, times, numbers, names, phone numbers, choices.

Everything here is English, plain and synchronous. Today's date is an argument.
"""
