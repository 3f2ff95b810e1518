"""The console in headless Chromium: everything a person can do there.

MSADB_SCREENSHOTS names a folder to keep pictures in.
"""

import os
import pathlib
import re
import shutil
import unittest

import support

try:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait
except ImportError:
    webdriver = None

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_S = 60
SCREENSHOTS = os.environ.get("MSADB_SCREENSHOTS")


@unittest.skipIf(webdriver is None, "the Python package selenium is not installed")
@unittest.skipIf(not CHROMIUM or not DRIVER, "chromium and chromium-driver are not installed")
class ConsoleTest(support.ServerTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.call("POST", "/v1/collections", {"name": "garden"})
        cls.call("POST", "/v1/collections", {"name": "empty"})
        cls.call("POST", "/v1/collections", {"name": "long"})
        for i, text in enumerate(("The spare key is under the blue flowerpot.",
                                  "The heron comes to the pond at dawn.",
                                  "Plums are ripe in August. <b>Not markup</b>")):
            cls.call("POST", "/v1/collections/garden/documents",
                     {"text": text, "key": f"note/{i}", "metadata": {"n": i}})
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu",
                         "--disable-dev-shm-usage", f"--user-data-dir={cls.folder}/chromium"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        cls.browser = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(executable_path=DRIVER))
        cls.addClassCleanup(cls.browser.quit)

    def setUp(self):
        self.size(1100, 900)
        self.scheme("light")
        self.browser.get(self.server.url + "/")
        self.browser.execute_script("sessionStorage.clear()")
        self.browser.get(self.server.url + "/")

    # The browser logs every refusal by the server, some time after it. These are provoked; anything
    # else in its log is a fault of the page: a blocked script, style or request, an error thrown.
    PROVOKED = ((r"/v1/collections - .* status of 401 ", "a wrong token"),
                (r"&where=%7B%22n%22%3A%7B%22%24no%22%3A1%7D%7D - .* status of 400 ", "no such operator"),
                (r"/v1/stats - .* status of 403 ", "a token that is not the server's"))

    def tearDown(self):
        severe = [entry["message"] for entry in self.browser.get_log("browser")
                  if entry["level"] == "SEVERE"
                  and not any(re.search(pattern, entry["message"]) for pattern, _ in self.PROVOKED)]
        self.assertEqual(severe, [])

    def size(self, width, height):
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})

    def scheme(self, name):
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": name}]})

    def picture(self, name):
        if SCREENSHOTS:
            pathlib.Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
            self.browser.save_screenshot(f"{SCREENSHOTS}/{name}.png")

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        # In one step, so that the page cannot change in between.
        return self.browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(node => node.innerText)",
            selector)

    def wait(self, condition):
        return WebDriverWait(self.browser, WAIT_S).until(lambda _: condition())

    def type_over(self, selector, *keys):
        self.find(selector).clear()
        self.find(selector).send_keys(*keys)

    def log_in(self, token=None):
        self.find("#token").send_keys(token or self.server.admin, Keys.ENTER)
        self.wait(lambda: self.find("#app").is_displayed())

    def choose(self, collection):
        Select(self.find("#collection")).select_by_value(collection)

    def tab(self, name):
        self.find(f"nav button[data-tab={name}]").click()

    def ask(self, question):
        self.find("#question").send_keys(question, Keys.ENTER)
        self.wait(lambda: "generated" in self.find("#answer-facts").text)

    def test_a_wrong_token_is_told(self):
        self.picture("login")
        self.find("#token").send_keys("wrong", Keys.ENTER)
        self.wait(lambda: "token" in self.find("#error").text)
        self.assertFalse(self.find("#app").is_displayed())

    def test_ask_shows_answer_sources_and_attention(self):
        self.log_in()
        self.choose("garden")
        self.ask("Where is the spare key?")
        self.assertTrue(self.find("table.heat").is_displayed())
        rows = self.browser.find_elements(By.CSS_SELECTOR, "table.heat tbody tr")
        self.assertGreater(len(rows), 0)
        scores = [text for text in self.texts("table.heat td") if text]
        self.assertTrue(all(float(score) <= 1.01 for score in scores), scores)
        self.picture("ask-light")
        self.scheme("dark")
        self.picture("ask-dark")
        self.size(390, 844)
        self.picture("ask-phone-dark")
        self.size(1100, 900)
        self.find("table.heat thead button").click()
        self.wait(lambda: self.find("#document").is_displayed())
        self.assertIn("stored", self.find("#document-body").text)
        self.picture("document-dark")

    def test_citations_open_their_document(self):
        self.log_in()
        self.choose("garden")
        # What a small model cites is chance; what is cited is made to open.
        self.browser.execute_script(
            "answered({answer: 'Under the pot [1].', citations: [{id: 1, part: 1, key: 'note/0',"
            "text: 'The spare key', text_offset: 0, source: '', in_answer: true}], trace: [],"
            "finish_reason: 'stop', prompt_tokens: 1, generated_tokens: 1})")
        self.browser.execute_script("document.getElementById('citations-part').hidden = false")
        self.find("#citations button").send_keys(Keys.ENTER)
        self.wait(lambda: "flowerpot" in self.find("#document-body").text)

    def test_browse_search_insert_delete(self):
        self.log_in()
        self.choose("garden")
        self.tab("browse")
        self.wait(lambda: len(self.texts("#documents .card")) == 3)
        self.assertIn("<b>Not markup</b>", self.find("#documents").text)
        self.picture("browse")
        self.find("#where").send_keys('{"n": 1}', Keys.ENTER)
        self.wait(lambda: len(self.texts("#documents .card")) == 1)
        # What is no JSON does not leave the page; what is no filter the server refuses.
        self.find("#where").send_keys("}", Keys.ENTER)
        self.wait(lambda: "filter is not JSON" in self.find("#error").text)
        self.type_over("#where", '{"n": {"$no": 1}}', Keys.ENTER)
        self.wait(lambda: "$no" in self.find("#error").text)
        self.assertEqual(len(self.texts("#documents .card")), 1)

        self.tab("search")
        self.find("#query").send_keys("heron", Keys.ENTER)
        self.wait(lambda: len(self.texts("#hits .card")) == 3)
        self.picture("search")

        self.tab("insert")
        self.find("#text").send_keys("The ladder is in the barn.")
        self.find("#key").send_keys("note/9")
        self.find("#metadata").send_keys('{"n": 9}')
        self.picture("insert")
        self.find("#insert-form button").click()
        self.wait(lambda: "Stored as" in self.find("#inserted").text)
        self.assertEqual(self.ok("GET", "/v1/collections/garden/keys/note%2F9")["metadata"],
                         {"n": 9})

        self.tab("browse")
        self.type_over("#where", '{"n": 9}', Keys.ENTER)
        self.wait(lambda: len(self.texts("#documents .card")) == 1
                  and "ladder" in self.texts("#documents .card")[0])
        self.find("#documents .card").click()
        self.wait(lambda: self.find("#document-delete").is_displayed())
        self.find("#document-delete").click()
        self.wait(lambda: "No documents" in self.find("#documents").text)
        self.refused(404, "NotFound", "GET", "/v1/collections/garden/keys/note%2F9")

    def test_what_one_writer_left_is_found_and_deleted(self):
        scraper = self.server.add_token("scraper", "garden:write")
        for text in ("Buy now.", "Buy more."):
            self.call("POST", "/v1/collections/garden/documents", {"text": text}, scraper)
        self.log_in()
        self.choose("garden")
        self.tab("browse")
        self.wait(lambda: len(self.texts("#documents .card")) == 5)
        self.assertFalse(self.find("#delete-matching").is_displayed())
        self.find("#where").send_keys('{"$written_by": "scraper"}', Keys.ENTER)
        self.wait(lambda: len(self.texts("#documents .card")) == 2)
        for card in self.texts("#documents .card"):
            self.assertIn("by scraper", card)
        self.find("#delete-matching").click()
        self.assertIn("scraper", self.browser.switch_to.alert.text)
        self.browser.switch_to.alert.accept()
        self.wait(lambda: "No documents" in self.find("#documents").text)
        self.assertFalse(self.find("#delete-matching").is_displayed())
        self.assertEqual(self.ok("GET", "/v1/collections/garden")["documents"], 3)

    def test_a_late_reply_does_not_replace_a_newer_one(self):
        self.log_in()
        self.choose("garden")
        # Replies to requests without a filter are held back until one with a filter was shown.
        self.browser.execute_script(
            "const real = window.fetch; window.held = []; window.late = 0;"
            "window.fetch = (path, options) => path.includes('where=') ? real(path, options) :"
            "  new Promise(go => held.push(go)).then(() => real(path, options))"
            "  .finally(() => ++late);")
        self.tab("browse")
        self.find("#where").send_keys('{"n": 1}', Keys.ENTER)
        self.wait(lambda: len(self.texts("#documents .card")) == 1)
        self.assertEqual(self.browser.execute_script("return held.map(go => go()).length"), 1)
        self.wait(lambda: self.browser.execute_script("return late") == 1)
        self.assertEqual(len(self.texts("#documents .card")), 1)
        self.assertEqual(self.find("#error").text, "")

    def test_another_collection_shows_nothing_of_the_last(self):
        self.log_in()
        self.choose("garden")
        self.ask("Where is the spare key?")
        self.choose("empty")
        self.assertFalse(self.find("#answer-card").is_displayed())
        self.assertFalse(self.find("#trace-part").is_displayed())
        self.assertTrue(self.find("#ask-go").is_enabled())
        self.tab("browse")
        self.wait(lambda: "No documents" in self.find("#documents").text)

    def test_a_question_can_be_stopped(self):
        self.log_in()
        self.choose("garden")
        # The reply never comes, so that there is time.
        self.browser.execute_script(
            "window.fetch = (path, {signal}) => new Promise((_, no) => signal.addEventListener("
            "'abort', () => no(new DOMException('stopped', 'AbortError'))));")
        self.find("#question").send_keys("Where?", Keys.ENTER)
        self.wait(lambda: "thinking" in self.find("#answer-facts").text)
        self.find("#ask-stop").send_keys(Keys.ENTER)
        self.wait(lambda: self.find("#answer-facts").text == "stopped")
        self.assertTrue(self.find("#ask-go").is_enabled())
        self.assertEqual(self.find("#error").text, "")

    def test_a_token_without_collections_is_told(self):
        self.log_in(self.server.add_token("console-nobody", "not-there:read"))
        self.tab("search")
        self.find("#query").send_keys("heron", Keys.ENTER)
        self.wait(lambda: "No collection" in self.find("#error").text)

    def test_collections_and_their_sizes(self):
        self.log_in()
        self.tab("collections")
        self.wait(lambda: len(self.texts("#sizes tbody tr")) == 4)
        self.assertIn("garden", self.find("#sizes").text)
        self.wait(lambda: "block cache" in self.find("#database").text)
        self.picture("collections")
        self.find("#name").send_keys("new", Keys.ENTER)
        self.wait(lambda: len(self.texts("#sizes tbody tr")) == 5)
        self.find("#sizes tbody tr:last-child button").click()
        self.browser.switch_to.alert.accept()
        self.wait(lambda: len(self.texts("#sizes tbody tr")) == 4)
        self.refused(404, "NotFound", "GET", "/v1/collections/new")

    def test_a_collection_dropped_meanwhile_does_not_hide_the_others(self):
        self.log_in()
        self.browser.execute_script(
            "const real = window.fetch; window.fetch = (path, options) =>"
            "  path === '/v1/collections/empty' ? Promise.resolve(new Response("
            "    '{\"error\": {\"message\": \"gone\"}}', {status: 404})) : real(path, options);")
        self.tab("collections")
        self.wait(lambda: len(self.texts("#sizes tbody tr")) == 3)
        self.assertNotIn("empty", self.find("#sizes").text)
        self.assertEqual(self.find("#error").text, "")

    def test_a_reader_is_offered_no_delete(self):
        self.log_in(self.server.add_token("console-reader", "garden:read"))
        self.tab("browse")
        self.wait(lambda: len(self.texts("#documents .card")) == 3)
        self.find("#documents .card").click()
        self.wait(lambda: self.find("#document").is_displayed())
        self.assertFalse(self.find("#document-delete").is_displayed())
        self.find("#document-close").click()
        self.find("#where").send_keys('{"n": 1}', Keys.ENTER)
        self.wait(lambda: len(self.texts("#documents .card")) == 1)
        self.assertFalse(self.find("#delete-matching").is_displayed())

    def test_by_keyboard_on_a_phone(self):
        self.size(390, 844)
        self.log_in()
        self.choose("garden")
        def reached():
            return self.browser.switch_to.active_element.get_attribute("data-tab")
        self.find("nav button[data-tab=ask]").send_keys(Keys.ARROW_LEFT)
        self.assertEqual(reached(), "collections")
        self.browser.switch_to.active_element.send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
        self.assertEqual(reached(), "browse")
        self.wait(lambda: len(self.texts("#documents .card")) == 3)
        self.picture("browse-phone")
        for name in ("ask", "search", "browse", "insert", "collections"):
            self.tab(name)
            wide = self.browser.execute_script(
                "return document.documentElement.scrollWidth - window.innerWidth")
            self.assertLessEqual(wide, 0, name)
        self.picture("collections-phone")

    def test_long_names_do_not_widen_a_phone(self):
        long = "/a/very/long/" + "folder" * 30 + "/name.md"
        self.call("PUT", "/v1/collections/long/documents", {"text": "x" * 300, "key": long})
        self.size(390, 844)
        self.log_in()
        self.choose("long")
        self.tab("browse")
        self.wait(lambda: len(self.texts("#documents .card")) == 1)
        self.find("#documents .card").click()
        self.wait(lambda: self.find("#document").is_displayed())
        for node in ("document.documentElement", "document.getElementById('document')"):
            self.assertLessEqual(self.browser.execute_script(
                f"return {node}.scrollWidth - {node}.clientWidth"), 0, node)
        self.picture("document-phone")
        self.find("#document-close").click()


if __name__ == "__main__":
    unittest.main()
