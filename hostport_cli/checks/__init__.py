"""`hostport check`: is the installation whole, and if not, which part is broken?

What is there is looked at (`looking`), what that means is judged (`judging`, pure), and each check has an entry in the
catalogue (`catalogue`), of which docs/checks.md is made.
"""
