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
// Whatever is waited for comes much sooner.
const PATIENCE = 180_000;

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

// axe is put into the pages, which their own policy would forbid.
async function judge(browser, base, pages, scheme, small) {
  const context = await browser.newContext({ viewport: DESKTOP, colorScheme: scheme, bypassCSP: true });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const found = {};
  for (const where of pages) {
    await page.setViewportSize(DESKTOP);
    await page.goto(base + where);
    found[where] = { [scheme]: await violations(page) };
    if (small) {
      await page.setViewportSize(SMALL);
      found[where][`${scheme}, small`] = await violations(page);
    }
  }
  await context.close();
  return found;
}

// Pages as people see them, without anything put into them.
async function look(browser, base, pages) {
  const context = await browser.newContext({ viewport: DESKTOP });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  let seen;
  page.on('console', (message) => seen.messages.push(`${message.type()}: ${message.text()}`));
  page.on('pageerror', (error) => seen.messages.push(`error: ${error.message}`));
  page.on('dialog', (dialog) => { seen.messages.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on('requestfailed', (request) => seen.messages.push(`failed: ${request.url()}`));
  const all = [];
  for (const where of pages) {
    seen = { path: where, messages: [] };
    all.push(seen);
    await page.setViewportSize(DESKTOP);
    const answer = await page.goto(base + where);
    seen.status = answer.status();
    seen.bytes = (await answer.body()).length;
    seen.title = await page.title();
    seen.scripts = await page.locator('script, iframe, img, object, embed, [onerror], [onload], [onclick], [style]').count();
    seen.tabs = await tabs(page);
    await page.setViewportSize(SMALL);
    seen.small = await page.evaluate(overflow);
  }
  await context.close();
  return all;
}

async function photograph(browser, base, pages, folder) {
  fs.mkdirSync(folder, { recursive: true });
  for (const scheme of ['light', 'dark']) {
    for (const [device, viewport] of [['desktop', DESKTOP], ['telephone', TELEPHONE]]) {
      const context = await browser.newContext({ viewport, colorScheme: scheme });
      context.setDefaultTimeout(PATIENCE);
      const page = await context.newPage();
      for (const where of pages) {
        const name = where === '/' ? 'overview' : where.replace(/[^a-z0-9]+/gi, '-').replace(/^-/, '');
        await page.goto(base + where);
        await page.screenshot({ path: path.join(folder, `${name}-${device}-${scheme}.png`), fullPage: true });
      }
      await context.close();
    }
  }
}

async function main() {
  const { base, pages, shots, chromium: executablePath } = JSON.parse(process.argv[2]);
  const browser = await chromium.launch({ timeout: PATIENCE, executablePath, args: FLAGS, chromiumSandbox: false });
  try {
    const seen = await look(browser, base, pages);
    const light = await judge(browser, base, pages, 'light', true);
    const dark = await judge(browser, base, pages, 'dark', false);
    for (const page of seen) page.violations = { ...light[page.path], ...dark[page.path] };
    if (shots) await photograph(browser, base, pages, shots);
    process.stdout.write(JSON.stringify(seen));
  } finally {
    await browser.close();
  }
}

main().catch((error) => { console.error(error); process.exit(1); });
