"""The rules of a session, pure: no I/O, no clock, no randomness, no task.

`decide` turns a message into events, `evolve` folds an event into the state, `owed` reads from the state what
the world must be doing for it. Everything else in the product only carries these three out. A rule about what a
session may do belongs here and nowhere else; what needs time or chance receives it as an argument.
"""
