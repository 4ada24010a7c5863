"""How long a page of ten megabytes takes to write and to open in Chromium: python -m bench.look [MEGABYTES]."""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from rl4llm.look import write_page
from tests.look.runs import write_run

WORDS = ("we", "have", "to", "find", "how", "many", "left\n\n", "**Step 2:**", "7 =", "é", "漢", "\\boxed{5}")
DRAWN = "() => document.querySelectorAll('.tokens .token').length"


def main(megabytes: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        texts = [f" {word}" for word in WORDS]
        run = write_run(Path(folder) / "run", steps=(1, 100, 200), prompts=32, responses=8, tokens=400, texts=texts)
        began = time.perf_counter()
        page = write_page(run, megabytes=megabytes)
        print(f"written in {time.perf_counter() - began:.2f} s: {page.stat().st_size / 1e6:.1f} MB")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for _ in range(3):
                tab = browser.new_context().new_page()
                began = time.perf_counter()
                tab.goto(page.as_uri())
                tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
                opened = time.perf_counter() - began
                began = time.perf_counter()
                tab.keyboard.press("3")
                tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
                coloured = time.perf_counter() - began
                tokens = tab.evaluate(DRAWN)
                print(f"opened and painted in {opened:.2f} s, {tokens} tokens; coloured anew in {coloured:.2f} s")
            tab.close()
            browser.close()
        if len(sys.argv) > 2:
            shutil.copy(page, sys.argv[2])


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
