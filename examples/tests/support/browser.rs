//! A real browser without a screen: Chromium, told what to do by ChromeDriver (WebDriver, W3C).

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::http::ask;

/// A window of Chromium. It ends with this value.
pub(crate) struct Browser {
    driver: Child,
    address: String,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Opens one, or says why there is none to open.
    pub(crate) fn open() -> Option<Self> {
        let driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut driver) = driver else {
            eprintln!("SKIPPED: there is no chromedriver (Debian: apt-get install chromium chromium-driver)");
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let address = format!("127.0.0.1:{}", port.expect("chromedriver says its port"));
        // It writes little, but must not be kept from writing.
        std::thread::spawn(move || lines.count());
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-sync",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}});
        let (status, opened) = ask(&address, "POST", "/session", &wanted, "");
        if opened["value"]["message"].as_str().is_some_and(|why| why.contains("cannot find Chrome binary")) {
            eprintln!("SKIPPED: there is no Chromium (Debian: apt-get install chromium chromium-driver)");
            let _ = driver.kill();
            let _ = driver.wait();
            return None;
        }
        assert_eq!(status, 200, "{opened}");
        let session = opened["value"]["sessionId"].as_str().unwrap().to_owned();
        Some(Self { driver, address, session, _profile: profile })
    }

    fn tell(&self, what: &str, json: &Value) -> Value {
        let (status, mut answer) = ask(&self.address, "POST", &format!("/session/{}{what}", self.session), json, "");
        assert_eq!(status, 200, "{what} {json}: {answer}");
        answer["value"].take()
    }

    /// Loads a page in a window of this size, with these colours preferred.
    pub(crate) fn load(&self, url: &str, width: u32, height: u32, scheme: &str) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.cdp("Emulation.setDeviceMetricsOverride", metrics);
        self.cdp(
            "Emulation.setEmulatedMedia",
            json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        );
        self.tell("/url", &json!({ "url": url }));
    }

    fn cdp(&self, command: &str, parameters: Value) -> Value {
        self.tell("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// The value of an expression on the page.
    pub(crate) fn eval(&self, expression: &str) -> Value {
        self.tell("/execute/sync", &json!({"script": format!("return {expression}"), "args": []}))
    }

    /// Presses a key as the keyboard does: `\u{e004}` is Tab, `\u{e006}` Enter.
    pub(crate) fn press(&self, key: char) {
        let keys = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        self.tell("/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": keys}]}));
    }

    /// A picture of the whole page, as a PNG in base64.
    pub(crate) fn picture(&self) -> String {
        let taken = self.cdp("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
        taken["data"].as_str().unwrap().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It closes the window with the session; and the driver with that, if it is still there.
        let _ = ask(&self.address, "DELETE", &format!("/session/{}", self.session), &Value::Null, "");
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
