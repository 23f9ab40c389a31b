"""Secrets of every kind are replaced; what only looks like one stays."""

import base64
import time

import numpy as np
import pytest

from commbert.text.secrets import redacted, suspects

RNG = np.random.default_rng(41)


def letters(n, alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"):
    """Random letters; built here, so that this file itself holds no secret."""
    return "".join(RNG.choice(list(alphabet), n - 3)) + "a7Z"


def upper(n):
    return "".join(RNG.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"), n))


def hexadecimal(n_bytes):
    return RNG.bytes(n_bytes).hex()


def b64(n_bytes):
    return base64.b64encode(RNG.bytes(n_bytes)).decode()


A = {
    "aws": "AKIA" + upper(16), "aws temporary": "ASIA" + upper(16), "ghp": "ghp_" + letters(36),
    "gho": "gho_" + letters(36),
    "ghu": "ghu_" + letters(36), "ghs": "ghs_" + letters(36), "ghr": "ghr_" + letters(36),
    "pat": "github_pat_" + letters(22) + "_" + letters(59), "gitlab": "glpat-" + letters(20),
    "slack": "xoxb-" + letters(12),
    "google": "AIza" + letters(35), "stripe": "sk_live_" + letters(24), "stripe 2": "rk_live_" + letters(24),
    "openai": "sk-" + letters(48), "anthropic": "sk-ant-api03-" + letters(80), "npm": "npm_" + letters(36),
    "pypi": "pypi-" + letters(120), "jwt": f"eyJ{letters(20)}.eyJ{letters(40)}.{letters(43)}",
    "url": "hunter2" + letters(6),
    "bearer": letters(32), "hex": hexadecimal(32), "base64": b64(48), "password": "hunter2!x", "word": "letmeinplease",
    "key": letters(16), "token": letters(20), "pwd": "Tr0ub4dor&3",
}  # fmt: skip
PLANTED = [
    ("aws", "AWS key", 'const char *id = "{}";'),
    ("aws temporary", "AWS key", "aws_id: {}"),
    ("ghp", "GitHub token", "x = '{}'"),
    ("gho", "GitHub token", "# {} in a comment"),
    ("ghu", "GitHub token", "run: curl -u {}:x"),
    ("ghs", "GitHub token", "/* {} */"),
    ("ghr", "GitHub token", "token={}"),
    ("pat", "GitHub token", "token: {}"),
    ("gitlab", "GitLab token", 'f("{}")'),
    ("slack", "Slack token", "slack: {}"),
    ("google", "Google key", "key={}&x"),
    ("stripe", "Stripe key", 'stripe("{}")'),
    ("stripe 2", "Stripe key", "- {}"),
    ("openai", "model provider key", "api('{}')"),
    ("anthropic", "model provider key", "export K={}"),
    ("npm", "npm token", "//registry/:_authToken={}"),
    ("pypi", "PyPI token", "  pass = {}"),
    ("jwt", "JSON web token", 'x = "{}"'),
    ("url", "password in a URL", "git clone https://bob:{}@example.org/a.git"),
    ("url", "password in a URL", 'DSN = "postgres://u:{}@host:5432/db"'),
    ("bearer", "bearer token", "curl -H 'Authorization: Bearer {}'"),
    ("hex", "random hex", 'k = bytes.fromhex("{}")'),
    ("base64", "random base64", 'decode("{}")'),
    ("password", "named secret", 'password = "{}"'),
    ("password", "named secret", "db_passwd: '{}'"),
    ("password", "named secret", '  "password": "{}",'),
    ("password", "named secret", 'static const char wifi_password[] = "{}";'),
    ("password", "named secret", '#define WIFI_PASSWORD "{}"'),
    ("password", "named secret", 'f("bob",password="{}")'),
    ("password", "named secret", "password: str = '{}'"),
    ("word", "named secret", 'PASSWORD="{}"'),
    ("pwd", "named secret", "ftp.pwd = '{}'"),
    ("key", "named secret", 'apiKey: "{}"'),
    ("key", "named secret", 'config["secret_key"] = "{}"'),
    ("key", "named secret", "ACCESS_KEY = b'{}'"),
    ("key", "named secret", 'private_key="{}"'),
    ("token", "named secret", 'std::string auth_token = "{}";'),
    ("token", "named secret", "client_secret = '{}'"),
]


@pytest.mark.parametrize(("name", "kind", "line"), PLANTED)
def test_a_planted_secret_goes_and_the_rest_of_its_line_stays(name, kind, line):
    text = f"first\n{line.format(A[name])}\nlast"
    assert redacted(text) == (f"first\n{line.format('*' * 8)}\nlast", {kind: 1})


@pytest.mark.parametrize(("name", "kind", "line"), PLANTED)
def test_a_text_with_a_secret_is_a_suspect_among_others(name, kind, line):
    assert suspects(["int x = 1;\n", f"int y;\n{line.format(A[name])}\n", ""]) == [False, True, False]


def test_all_planted_secrets_are_found_in_one_text_and_counted():
    text, counts = redacted("\n".join(line.format(A[name]) for name, _, line in PLANTED))
    assert not [name for name in A if A[name] in text]
    assert counts == {k: sum(kind == k for _, kind, _ in PLANTED) for _, k, _ in PLANTED}


def key_lines():
    body = b64(300)
    return [body[i : i + 64] for i in range(0, len(body), 64)]


def test_each_line_of_a_private_key_goes_and_the_marks_stay():
    body = key_lines()
    text = "\n".join(["a", "-----BEGIN RSA PRIVATE KEY-----", *body, "-----END RSA PRIVATE KEY-----", "b"])
    clean, counts = redacted(text)
    lines = ["a", "-----BEGIN RSA PRIVATE KEY-----", *["*" * 8] * len(body), "-----END RSA PRIVATE KEY-----", "b"]
    assert (clean.split("\n"), counts) == (lines, {"private key": 1})


def test_a_private_key_in_literals_of_c_goes_and_they_stay_literals():
    body = key_lines()
    lines = ["-----BEGIN PRIVATE KEY-----", *body, "-----END PRIVATE KEY-----"]
    clean, counts = redacted("\n".join(f'  "{line}\\n"' for line in lines))
    wanted = [lines[0], *["*" * 8] * len(body), lines[-1]]
    assert clean == "\n".join(f'  "{line}\\n"' for line in wanted)
    assert counts == {"private key": 1}


def test_a_private_key_without_an_end_goes_as_far_as_it_looks_like_one():
    body = key_lines()
    clean, counts = redacted("\n".join(["-----BEGIN EC PRIVATE KEY-----", *body, "int f(int x);"]))
    assert not [line for line in body if line in clean]
    assert clean.endswith("\nint f(int x);")
    assert counts == {"private key": 1}


def test_code_between_two_marks_of_a_key_stays():
    code = "    readTheWholeBodyOfTheKeyNow(readTheWholeBodyOfTheKeyNow1, b)\n" * 3
    text = f'if x == "-----BEGIN PRIVATE KEY-----":\n{code}    y = "-----END PRIVATE KEY-----"'
    assert redacted(text) == (text, {})


@pytest.mark.parametrize(
    "line",
    [
        "* 1f0e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c fix of the scheduler",  # a git hash
        'commit = "1f0e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c"',
        'id = "123e4567-e89b-12d3-a456-426614174000"',  # a UUID
        "AKIA" + "A" * 17,
        'if password == "abcd1234x":',
        '"-with-SUPER-MONKEYS-Another-Way-and-More-words-1234"',
        "AKIAI is short", "xAKIA" + "A" * 16, "ghp_short", "high_ghp_" + "a" * 10, "task-management-of-the-scheduler",
        "sk-learn-is-a-library-for-python", "risk-" + "a1B" * 10, "xoxb-abc",
        "npm_config_registry_of_the_whole_build_here",
        'password = "********"', 'password = "<your password>"', 'password = "${DB_PASSWORD}"', 'password = "%s"',
        'password = "changeme1"', 'password = "example1234"', 'password = get_password("user1234")',
        'password = "password1"',
        'token = "identifier"', 'if token == "abcd1234":', 'token_type = "type1234"', "password = None",
        'password = ""',
        'secret = "xxxxxxxxxxxx"', 'key = "harq_process_1"', 'x["keyboard1"] = "qwertz123"', 'token = "https://a.b/c1"',
        "http://example.org:8080/a@b", "git@github.com:a/b.git", "https://user:${TOKEN}@host",
        "https://user:<password>@host",
        'zero = "' + "0" * 64 + '"', 'x = "' + "01" * 40 + '"', 'count = "' + "0123456789abcdef" * 4 + '"',
        '"' + "rrc_connection_reconfiguration_complete_r8_ies" + '"', '"RRCConnectionReconfigurationCompleteMessage2"',
        "'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'",
        "Authorization: Bearer <token>", "the bearer establishment_procedure_of_layer_three",
        'pem = "-----BEGIN PRIVATE KEY-----"; end = "-----END PRIVATE KEY-----"',
        "PRIVATE KEY files are not read", "eyJ.x.y", "AIza is a prefix",
        'path = "/usr/lib/python3/dist-packages/numpy/core/include"',
    ],
)  # fmt: skip
def test_what_only_looks_like_a_secret_stays(line):
    assert redacted(line) == (line, {})


def test_redacting_twice_changes_nothing_more():
    once, _ = redacted("\n".join(line.format(A[name]) for name, _, line in PLANTED))
    assert redacted(once) == (once, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        "AKIA", "ghp_", "github_pat_", "glpat-", "xoxb-", "AIza", "sk_live_", "sk-", "npm_", "pypi-", "eyJ", "eyJa.",
        "://", "://a:",
        "://a:b@", "PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----", "PRIVATE KEY-----\n-----", 'password="',
        "password", "=", '"', "'",
        '"a', "Bearer ", "bearer a", "define ", "#define password ", 'token = "12345678', " ", "-", "a", "0",
        '="aaaaaaaa1"',
        "eyJaaaaaaaa.eyJaaaaaaaa.",
    ],
)  # fmt: skip
def test_five_megabytes_take_seconds_at_most(unit):
    text = unit * (5_000_000 // len(unit))
    began_s = time.process_time()
    redacted("PRIVATE KEY-----" + text)
    assert time.process_time() - began_s < 30
