"""Measures the product on the machine at hand, through the real stack.

serve       the command: one run, one table, one JSON file
reuse       another: what reuse to the exact token gains on a follow-up
shapes      the models that can be measured     model      builds one of random weights
workload    pictures and questions              measure    times what a client sees
service     the real stack as a subprocess      direct     the engine alone, beside it
report      what is printed and kept            machine    what it was measured on
"""
