"""What the reference's evaluation scripts do with given predictions and judge's replies, for tests/test_scoring.cpp and test_judge.cpp.

    python tests/golden/evaluation.py MERV_SOURCE EVAL_SAMPLES > tests/golden/evaluation.json

MERV_SOURCE is a checkout of princetonvisualai/merv at d5eb1d2, EVAL_SAMPLES the folder with its dummy sets. Its own eval_mcq.evaluate() runs, with a model
that gives canned answers, and eval_gpt_batch's functions with a client that keeps what is sent; nothing but the standard library is needed. Of the dummy sets
only hashes are written.
"""
import hashlib, io, json, os, sys, tempfile, types
from contextlib import redirect_stdout
from pathlib import Path

source, samples = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()

PREDICTIONS = ["A", "b", "C.", "The answer is B", "An apple", "", " a", "(c)", "C: moving", "c", "B. I can't tell.", "None", "a"]
ODD = [  # our own questions, with what escapes and quotes may do to a request
    {"question": "what is it?", "answer": "a dog", "pred": "It is a dog."},
    {"question": "who says \"é\"\\n?", "answer": "naïve — 漢", "pred": "tab\there\u2028 and \U0001f600"},
    {"question": "", "answer": "", "pred": ""},
]
REPLIES = [
    "{'pred': 'yes', 'score': 4}", "{'pred': 'no', 'score': 0}", "{\"pred\": \"yes\", \"score\": 5}", "{'pred': 'Yes', 'score': 4.8}", "{'score': 3, 'pred': 'yes'}",
    "  {'pred': 'no', 'score': 1}", "```python\n{'pred': 'yes', 'score': 4}\n```", "Sure! {'pred': 'yes', 'score': 4}", "yes", "", "{'pred': 'yes'}", "{'pred': 'yes', 'score': 4",
    "{'pred': yes, 'score': 4}", "{'pred': 'yes', 'score': 4}.", "{'pred': 'yes', 'score': 4,}", "{'pred': 'maybe', 'score': 2}", "{'pred': 'no', 'score': 0, 'why': 'not \\'it\\''}",
    "{'pred': 'yes', 'score': 4} ", "I cannot help with that.", "{}", "{'pred': 'not yes', 'score': 2}", "{'pred': 'no', 'score': -1}",
    "{'pred': 'yes', 'score': 3, 'x': None, 'y': True}", "{\"pred\": \"yes\", \"score\": 3, \"x\": null}",
]


def stubs():
    """Modules the scripts import but whose parts do not run here."""
    def module(name, **attributes):
        m = types.ModuleType(name)
        m.__dict__.update(attributes)
        sys.modules[name] = m
        return m
    module("draccus", wrap=lambda: (lambda f: f))
    torch = module("torch", bfloat16=None, device=lambda name: name)
    torch.cuda = types.SimpleNamespace(is_available=lambda: False)
    module("openai")
    module("tqdm", tqdm=lambda x, **_: x)
    module("tqdm.auto", tqdm=lambda x, **_: x)
    for name in ("merv", "merv.models", "merv.overwatch"):
        module(name)
    module("merv.conf", ModelConfig=None, ModelRegistry=None)
    sys.modules["merv.overwatch"].initialize_overwatch = lambda name: None
    module("merv.models.load_vid", load_vid=lambda *_, **__: (Model(), types.SimpleNamespace(num_frames=[1])))


class Model:
    """Answers with PREDICTIONS, one after the other from `first` on, and keeps the prompts."""
    first, prompts = 0, []

    def __init__(self):
        self.count = 0
        self.llm_backbone = types.SimpleNamespace(prompt_builder_fn=lambda model_family: Turn())

    def to(self, *_, **__): pass

    def generate(self, video, prompt, **_):
        Model.prompts.append(prompt)
        self.count += 1
        return PREDICTIONS[(Model.first + self.count - 1) % len(PREDICTIONS)]


class Turn:
    def add_turn(self, role, message): self.message = message
    def get_prompt(self): return self.message


def sha(text): return hashlib.sha256(text.encode()).hexdigest()


def script(name):
    path = source / "scripts" / f"{name}.py"
    m = types.ModuleType(name)
    sys.modules[name] = m  # dataclasses look their module up
    m.__dict__["__file__"] = str(path)
    exec(compile(path.read_text(), str(path), "exec"), m.__dict__)
    return m


def choices():
    mcq, prompts, verdicts = script("eval_mcq"), [], []
    folder = Path("eval_data/dummy_mcq")
    (folder / "videos").mkdir(parents=True)
    (folder / "videos/video_10336.mp4").touch()
    for part in ("q", "a"):
        (folder / f"test_{part}.json").write_text((samples / f"merv_dummy_mcq_test_{part}.json").read_text())
    Path(".hf_token").write_text("x")
    for first in range(len(PREDICTIONS)):
        Model.first = first
        mcq.evaluate(mcq.EvalConfig(model_path=f"m{first}", eval_dataset="dummy_mcq_token" if first == 1 else "dummy_mcq"))
        name = "dummy_mcq_token" if first == 1 else "dummy_mcq"
        judged = json.loads(Path(f"eval_result/m{first}/{name}_naive_gpt.json").read_text())
        verdicts.append("".join(v["pred"][0] for v, _ in judged.values()))
        if first < 2:
            prompts.append([{"id": i, "sha256": sha(r["question_text"]), "letter": r["answer_char"]} for i, (_, r) in judged.items()])
            keys = list(r for _, r in judged.values())[-1].keys()
    return {"prompts": prompts[0], "token_prompts": prompts[1], "verdicts": verdicts, "keys": list(keys)}


def requests():
    """Each request's line as the reference sends it."""
    batch, sent = script("eval_gpt_batch"), []
    client = types.SimpleNamespace(
        files=types.SimpleNamespace(create=lambda file, purpose: sent.append(file.getvalue().decode()) or types.SimpleNamespace(id="f")),
        batches=types.SimpleNamespace(create=lambda **_: types.SimpleNamespace(json=lambda: "{}")))
    q, a = (json.loads((samples / f"merv_dummy_openended_test_{p}.json").read_text()) for p in "qa")
    items = [{"question": x["question"], "answer": y["answer"], "pred": PREDICTIONS[i % len(PREDICTIONS)]} for i, (x, y) in enumerate(zip(q, a))]
    lines = {}
    for name, rows in (("dummy", items), ("odd", ODD)):
        sent.clear()
        table = {str(i): {"q": r["question"], "a": r["answer"], "pred": r["pred"]} for i, r in enumerate(rows)}
        batch.query_gpt(client, table, list(table), os.devnull, "m", "b")
        lines[name] = "\n".join(sent).split("\n")
    return batch, lines


def replies(batch):
    """Each reply alone, and what all of them with one missing add up to."""
    def line(i, text): return json.dumps({"custom_id": str(i), "response": {"body": {"choices": [{"message": {"content": text}}]}}})
    table = {str(i): {} for i in range(len(REPLIES) + 1)}
    batch.save_evaluation_result("\n".join(line(i, r) for i, r in enumerate(REPLIES)), table, "gpt.json")
    judged = json.loads(Path("gpt.json").read_text())
    accuracy, score = batch.print_calculated_performance("gpt.json")
    return [{"content": r, "pred": judged[str(i)][0]["pred"], "score": judged[str(i)][0]["score"]} for i, r in enumerate(REPLIES)], accuracy, score


stubs()
with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
    os.chdir(folder)
    runs = choices()
    batch, lines = requests()
    parsed, accuracy, score = replies(batch)
json.dump({
    "source": "princetonvisualai/merv d5eb1d2, scripts/eval_mcq.py and eval_gpt_batch.py",
    "predictions": PREDICTIONS, "choices": runs,
    "odd": ODD, "odd_requests_sha256": [sha(l) for l in lines["odd"]], "odd_request": lines["odd"][1], "dummy_requests_sha256": [sha(l) for l in lines["dummy"]],
    "replies": parsed, "accuracy": accuracy, "score": score,
}, sys.stdout)
print()
