"""Breaks a running service in every way we know, under traffic, and says what it noticed.

__main__   the command: one run, its tables, one JSON file; exit code 1 on any violation
run        the story: start, learn, break, check, close all, compare
plan       which fault when, from a seed        faults/    one small class for each kind
stack      the service and its processes        disk       a small one for its state directory
composition, chaos_handler                      the two parts of it that can be made to fail
scripts    what is talked about                 reference  what is answered when nothing is wrong
traffic    all clients                          client     what one of them does
attempt    one request, judged by its end       talk       HTTP, and how a request can end
weather    what excuses an error                record     what a session must hold
leaks      what must be back where it was       tally, report  what was seen, kept and printed
"""
