"""Required settings of every verb, so that the arguments under test are the only possible error."""

REQUIRED = {
    "train": ["output=o", "arm=a", "data.tokens=t", "data.order=o"],
    "arrange": ["output=o", "tokens=t", "scores=s"],
    "score": ["output=o", "tokens=t", "models.weak=w", "models.strong=s"],
    "pairs prepare": ["input.paths=[x]", "tokenizer=t"],
    "pairs score": ["pairs=p", "output=o", "policy=m"],
    "pairs select": ["pairs=p", "output=o", "scores=s"],
    "replan": ["order=o", "from_step=5", "output=p"],
    "evaluate": ["run=r"],
    "export": ["run=r", "output=o"],
    "adopt": ["tokenizer.name=n", "train.web=w"],
    "megatron": ["tokens=t", "output=o"],
    "doctor": ["faults=true"],
    "inspect": ["folder=f"],
    "report": ["runs.shuffled=a", "runs.pdpc=b"],
    "prepare": ["input.paths=[x]"],
    "study": ["file=f"],
    "probe": ["run=r", "output=o"],
}
