"""Breaks a running service in every way we know, under traffic, and says what it noticed.

__main__     the command: one run, one table, one JSON file; exit code 1 on any violation
run          the story: start, learn, break, check, end        plan       which fault when
stack        the service under test and its processes          composition, chaos_handler  its seams
scripts      conversations and their undisturbed answers       record     what a session must hold
talk         HTTP, and how a request can end                   weather    what excuses an error
traffic      all clients                                       client     what one of them does
faults/      one small class for each kind                     recovery   until it serves again
leaks        what must be back where it was in the end         report     what is printed and kept
"""
