"""The page in a real browser: it opens, colours, tells numbers, sorts, compares, and is used by keyboard."""

import math
import shutil

import pyarrow.parquet
import pytest

from rl4llm.look import write_page
from tests.look.runs import HOSTILE, write_run

pytestmark = pytest.mark.long
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine; apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright; pip install 'rl4llm[test]'")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("look") / "run", steps=(1, 20, 40))
    write_page(folder)
    return folder


@pytest.fixture
def page(browser, run):
    """The page, wide and light; a test ends with no error in the console and no request beside the file itself."""
    with Opened(browser, run) as found:
        yield found


class Opened:
    def __init__(self, browser, run, **options):
        self.browser, self.file = browser, run / "look.html"
        self.options = {"viewport": {"width": 1280, "height": 860}, **options}
        self.faults, self.asked = [], []

    def __enter__(self):
        self.context = self.browser.new_context(**self.options)
        page = self.context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda said: self.faults.append(said.text))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(self.file.as_uri())
        return page

    def __exit__(self, *error):
        self.context.close()
        if error[0] is None:
            assert not self.faults
            assert self.asked == [self.file.as_uri()]


def rows_of(run, step):
    return pyarrow.parquet.read_table(run / f"rows/step_{step:06d}.parquet").to_pylist()


def shown_numbers(page):
    """What the tooltip says, by label."""
    labels, values = (page.locator(f"#tip {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(labels, (value.replace("−", "-") for value in values), strict=True))


def scores(page):
    return page.locator(".prompt .number:nth-child(2)").all_inner_texts()


def tokens(page, response=0):
    return page.locator(".tokens").nth(response).locator(".token")


def test_it_opens_on_the_tokens_of_the_last_batch(page, run):
    assert page.title().endswith("/run · rl4llm look")
    assert page.locator(".pick select option:checked").inner_text() == "rollout batch 40"
    assert page.locator(".prompt").count() == 3
    assert page.locator(".response").count() == 4
    assert page.evaluate("window.broken") is None


def test_hostile_text_is_shown_as_text(page):
    prompt = page.locator(".question pre").inner_text()
    assert "</script><script>window.broken = true</script> & <b>" in prompt
    assert "\\u202e" in prompt
    assert "\u202e" not in page.locator("body").inner_text()
    assert page.locator(".tokens b, .prompt b, .question b").count() == 0
    assert "⏎" in page.locator(".tokens").first.inner_text()


def test_a_token_tells_its_numbers_to_the_pointer_and_to_the_keyboard(page, run):
    page.get_by_role("button", name="Sort by prompt").click()
    page.locator(".prompt").first.click()
    row = rows_of(run, 40)[0]
    tokens(page).nth(5).hover()
    told = shown_numbers(page)
    assert page.locator("#tip").is_visible()
    assert f"token 6 of {len(row['tokens'])}" in page.locator("#tip .title").inner_text()
    labels = {"advantage": "advantages", "value": "values", "spread of critics": "spread", "entropy": "entropies"}
    for label, name in {**labels, "ratio, after / before": "ratio", "· critic 1": "critic_1"}.items():
        assert float(told[label]) == pytest.approx(row[name][5], rel=6e-3), label
    assert "gated" in page.locator("#tip").inner_text()
    assert "filtered" not in page.locator("#tip").inner_text()
    page.mouse.move(0, 0)
    assert page.locator("#tip").is_hidden()

    tokens(page).first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    focused = page.locator(".token:focus")
    assert focused.get_attribute("data-at") == "2"
    assert focused.get_attribute("aria-describedby") == "tip"
    assert "not trained" in page.locator("#tip").inner_text()
    assert shown_numbers(page)["advantage"] == "–"
    page.keyboard.press("ArrowDown")
    assert int(page.locator(".token:focus").get_attribute("data-at")) == len(row["tokens"]) + 2
    page.keyboard.press("End")
    assert f"token {len(rows_of(run, 40)[1]['tokens'])} of" in page.locator("#tip .title").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_colours_follow_the_channel_and_sign_has_a_shape(page, run):
    page.get_by_role("button", name="Sort by prompt").click()
    page.locator(".prompt").first.click()
    row = rows_of(run, 40)[0]
    look = "x => [x.className, getComputedStyle(x).borderBottomStyle, getComputedStyle(x).backgroundColor]"
    for at, number in enumerate(row["advantages"]):
        kind, border, _ = tokens(page).nth(at).evaluate(look)
        if number is not None:
            assert kind.split()[1] == ("pos" if number > 0 else "neg")
            assert border == ("solid" if number > 0 else "dotted")
        assert ("gated" in kind) == (number is not None and not row["gate"][at])
        assert ("filtered" in kind) == (number is not None and not row["filter_entropy"][at])
        assert ("untrained" in kind) == (number is None)
    before = tokens(page).nth(5).evaluate(look)[2]
    page.keyboard.press("3")
    assert page.locator("input[value=spread]").is_checked()
    assert "seq" in tokens(page).nth(5).evaluate(look)[0]
    assert tokens(page).nth(5).evaluate(look)[2] != before
    page.get_by_text("Ratio").click()
    strengths = [float(token.evaluate("x => x.style.getPropertyValue('--s')")) for token in tokens(page).all()]
    ratios = [0 if ratio is None else abs(math.log(ratio)) for ratio in row["ratio"]]
    ranked = sorted(range(len(ratios)), key=ratios.__getitem__)
    assert [strengths[at] for at in ranked] == sorted(strengths)


def test_prompts_are_sorted_and_found(page):
    for name, column in {"score": 2, "spread": 3, "length": 4}.items():
        head = page.locator(f"[data-sort={name}]")
        numbers = []
        for _ in range(2):
            head.click()
            texts = page.locator(f".prompt .number:nth-child({column})").all_inner_texts()
            numbers.append([float(text) for text in texts])
            falling = head.get_attribute("data-order") == "descending"
            assert numbers[-1] == sorted(numbers[-1], reverse=falling)
        assert numbers[0] == numbers[1][::-1]
    page.get_by_placeholder("find a prompt").fill("prompt 1")
    assert page.locator(".prompt").count() == 1


def test_the_keyboard_moves_through_prompts(page):
    page.locator(".prompt[aria-selected=true]").focus()
    page.keyboard.press("ArrowDown")
    chosen = page.locator(".prompt[aria-selected=true]")
    assert chosen.evaluate("x => x === document.activeElement")
    name = chosen.locator(".text").inner_text()[:8]
    assert page.locator(".question pre").inner_text().startswith(name)
    page.keyboard.press("Home")
    assert page.locator(".prompt").first.get_attribute("aria-selected") == "true"


def test_two_batches_stand_side_by_side_and_follow_each_other(page):
    page.get_by_role("button", name="Compare two batches").click()
    assert page.locator(".pick select option:checked").all_inner_texts() == ["rollout batch 1", "rollout batch 40"]
    left, right = (page.locator(".pane").nth(side) for side in (0, 1))
    left.locator(".prompt").nth(2).click()
    assert left.locator(".question pre").inner_text() == right.locator(".question pre").inner_text()
    left.locator("select").select_option("1")
    assert left.locator("option:checked").inner_text() == "rollout batch 20"
    assert left.locator(".question pre").inner_text() == right.locator(".question pre").inner_text()
    page.get_by_role("button", name="Compare two batches").click()
    assert page.locator(".pane").count() == 1


def test_the_other_views(page):
    page.locator("#tab-tokens").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#curves figcaption").all_inner_texts()[0] == "Accuracy"
    page.locator("#curves .plot svg").first.focus()
    page.keyboard.press("ArrowLeft")
    assert "step 18" in page.locator("#curves .read").first.inner_text()
    page.get_by_placeholder("filter metrics").fill("val/")
    assert page.locator("#curves .charts:not(.large) figcaption:visible").all_inner_texts() == ["val/sampled_accuracy"]
    page.get_by_role("tab", name="Composition").click()
    assert "AgreementGate" in page.locator("#composition").inner_text()
    assert HOSTILE[:9] in page.locator("#composition").inner_text()
    assert "replay" in page.locator("#composition .note").inner_text()
    page.get_by_role("tab", name="Costs").click()
    assert page.locator("#costs .share").inner_text().split("\n") == ["rollout: 20 s, 33 %", "the rest: 40 s, 67 %"]


def test_dark_follows_the_system_and_the_switch(browser, run):
    background = "getComputedStyle(document.body).backgroundColor"
    with Opened(browser, run, color_scheme="dark") as page:
        dark = page.evaluate(background)
        page.locator("#theme").click()
        light = page.evaluate(background)
        page.locator("#theme").click()
        assert page.evaluate(background) == dark != light
    with Opened(browser, run, color_scheme="light") as page:
        assert page.evaluate(background) == light


LUMINANCE = """() => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (...colours) => {
    for (const colour of colours) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); }
    const linear = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].map((x) => linear(x / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const panel = getComputedStyle(document.querySelector(".response")).backgroundColor;
  return [...document.querySelectorAll(".tokens .token:not(.untrained)")].map((token) => {
    const style = getComputedStyle(token);
    const [ground, ink] = [light(panel, style.backgroundColor), light(style.color)];
    return (Math.max(ground, ink) + 0.05) / (Math.min(ground, ink) + 0.05);
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_every_colour(scheme, browser, run):
    with Opened(browser, run, color_scheme=scheme) as page:
        for key in "123":
            page.keyboard.press(key)
            page.evaluate("document.querySelectorAll('.tokens .token').forEach((x) => x.style.setProperty('--s', 1))")
            assert min(page.evaluate(LUMINANCE)) >= 4.5


def test_a_phone_needs_no_sideways_scrolling(browser, run):
    with Opened(browser, run, viewport={"width": 390, "height": 844}) as page:
        for tab in ("tokens", "curves", "composition", "costs"):
            page.click(f"#tab-{tab}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_run_without_critics_has_no_colours_of_theirs(browser, tmp_path):
    run = write_run(
        tmp_path / "run", left_out=("values", "spread", "critic_0", "critic_1", "returns", "filter_entropy")
    )
    write_page(run)
    with Opened(browser, run) as page:
        assert [label.split("\n")[0] for label in page.locator(".channels label").all_inner_texts()] == [
            "Advantage1", "Entropy2", "Ratio3"]  # fmt: skip
        assert page.locator("[data-sort=score]").get_attribute("data-order") == "descending"
        assert page.locator(".strip").count() == 0
        tokens(page).nth(5).hover()
        assert list(shown_numbers(page)) == ["advantage", "entropy", "ratio, after / before", "log-prob"]


def test_a_run_without_rows_says_how_to_keep_them(browser, tmp_path):
    run = write_run(tmp_path / "run", steps=())
    write_page(run)
    with Opened(browser, run) as page:
        assert page.locator("#tab-curves").get_attribute("aria-selected") == "true"
        page.get_by_role("tab", name="Tokens").click()
        assert "--rows.every_n_batches=20" in page.locator("#tokens").inner_text()
