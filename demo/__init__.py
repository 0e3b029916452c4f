"""The small built-in LLaVA: a world of drawn shapes, its language, its training and its proof.

In the order to read it:

    scenes      what is in a picture, and nothing else
    draw        a scene as a picture
    grammar     how things, places and numbers are named
    answers     a question with its answer; choosing, what to ask about
    questions   questions that stand alone; dialogue, those that need what was said before
    tokenizer   words to numbers, and the chat template
    model       the checkpoint's shape and its processor
    store       training pictures and labels; rows, batches of conversations on them
    attention   which token sees which; heads, the vision tower's first task
    recipe      all that decides the result; trainer, the two stages; train, the command
    talker      a checkpoint that answers; score, counting; evaluate and live, the proofs
    samples     the pictures that README and tests use

Nothing of the server is imported here but its client, in `live`, and nothing here is imported by
the server: what leaves this package is an ordinary Hugging Face checkpoint in `demo/model/`.
"""
