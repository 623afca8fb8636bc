"""A real vLLM engine with ringcast's queue, and one with vLLM's own beside it: `make engine`, `make engine-short`.

vLLM's CPU build of requirements.txt, in an environment of its own, nothing of it changed; tensor parallel 2; a tiny
Llama with random weights, made on the spot.

    model      the model's folder
    engine     one engine in a process of its own, which does what it is told, line by line
    probe      counts what the queues' calls cost, in each of an engine's processes
    driver     starts engines, tells them what to do, looks at their processes
    __main__   the trials, in turns, and the table
"""
