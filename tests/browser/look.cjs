// Looks at pages in Chromium and prints what was seen, as JSON. What is right or wrong is said by the test
// that starts it.
//
//   node look.cjs '{"base": "http://127.0.0.1:1", "chromium": "/usr/bin/chromium", "pages": ["/"], "shots": null}'
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');
const axe = require('axe-core');

const FLAGS = [
  '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];
const TAGS = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
const DESKTOP = { width: 1280, height: 900 };
const TELEPHONE = { width: 390, height: 844 };
const SMALL = { width: 360, height: 740 };

// Runs in the page: what can be reached by keyboard, in order.
function reachable() {
  return [...document.querySelectorAll('a[href], summary, button, input, [tabindex]')]
    .filter((element) => element.tabIndex >= 0 && element.checkVisibility()).length;
}

// Runs in the page: the element that has the focus, and whether that is to be seen.
function focused() {
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  element.seen = (element.seen || 0) + 1;
  return {
    name: (element.textContent || '').trim().slice(0, 60),
    again: element.seen > 1,
    visible: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2,
  };
}

async function tabs(page) {
  const expected = await page.evaluate(reachable);
  const reached = [];
  for (let n = 0; n < expected + 3; n += 1) {
    await page.keyboard.press('Tab');
    const element = await page.evaluate(focused);
    if (!element || element.again) break;
    reached.push(element);
  }
  return { expected, reached: reached.length, without_outline: reached.filter((e) => !e.visible).map((e) => e.name) };
}

async function violations(page) {
  await page.evaluate(axe.source);
  const found = await page.evaluate((tags) => globalThis.axe.run(document, { runOnly: tags, resultTypes: ['violations'] }), TAGS);
  return found.violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160)).join(' | ')}`);
}

// Content wider than the window makes the whole page scroll sideways.
function overflow() {
  const root = document.scrollingElement;
  const wide = [...document.querySelectorAll('body *')]
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('svg'))
    .slice(0, 5).map((e) => `${e.tagName} ${e.className}`);
  return { scroll: root.scrollWidth - innerWidth, wide };
}

async function look(browser, { base, shots }, where) {
  const seen = { path: where, messages: [], violations: {} };
  for (const scheme of ['light', 'dark']) {
    // axe is put into the page, which the page's own policy would forbid.
    const context = await browser.newContext({ viewport: DESKTOP, colorScheme: scheme, bypassCSP: true });
    const page = await context.newPage();
    await page.goto(base + where);
    seen.violations[scheme] = await violations(page);
    if (scheme === 'light') {
      await page.setViewportSize(SMALL);
      seen.violations[`${scheme}, small`] = await violations(page);
    }
    await context.close();
  }
  // Without anything put into it, as people see it.
  const context = await browser.newContext({ viewport: DESKTOP });
  const page = await context.newPage();
  page.on('console', (message) => seen.messages.push(`${message.type()}: ${message.text()}`));
  page.on('pageerror', (error) => seen.messages.push(`error: ${error.message}`));
  page.on('dialog', (dialog) => { seen.messages.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on('requestfailed', (request) => seen.messages.push(`failed: ${request.url()}`));
  seen.requests = 0;
  page.on('request', () => { seen.requests += 1; });
  const answer = await page.goto(base + where);
  seen.status = answer.status();
  seen.bytes = (await answer.body()).length;
  seen.title = await page.title();
  seen.heading = await page.locator('h1').innerText();
  seen.scripts = await page.locator('script, iframe, img, object, embed, [onerror], [onload], [onclick], [style]').count();
  seen.tabs = await tabs(page);
  await page.setViewportSize(SMALL);
  seen.small = await page.evaluate(overflow);
  await context.close();
  if (shots) await photograph(browser, base, where, shots);
  return seen;
}

async function photograph(browser, base, where, folder) {
  const name = where === '/' ? 'overview' : where.replace(/[^a-z0-9]+/gi, '-').replace(/^-/, '');
  for (const scheme of ['light', 'dark']) {
    for (const [device, viewport] of [['desktop', DESKTOP], ['telephone', TELEPHONE]]) {
      const context = await browser.newContext({ viewport, colorScheme: scheme });
      const page = await context.newPage();
      await page.goto(base + where);
      await page.screenshot({ path: path.join(folder, `${name}-${device}-${scheme}.png`), fullPage: true });
      await context.close();
    }
  }
}

async function main() {
  const task = JSON.parse(process.argv[2]);
  if (task.shots) fs.mkdirSync(task.shots, { recursive: true });
  const browser = await chromium.launch({ executablePath: task.chromium, args: FLAGS, chromiumSandbox: false });
  try {
    const seen = [];
    for (const where of task.pages) seen.push(await look(browser, task, where));
    process.stdout.write(JSON.stringify(seen));
  } finally {
    await browser.close();
  }
}

main().catch((error) => { console.error(error); process.exit(1); });
