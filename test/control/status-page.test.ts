/** The status page as it is served. What it shows is tested in a browser: guests/status-page.test.ts. */

import { createHash } from 'node:crypto';
import { expect, it } from 'vitest';
import { statusPage } from '../../src/control/status-page.ts';

const { body, headers } = statusPage();
const policy = headers['Content-Security-Policy']!;

it('lets its own script and style run, by their hashes, and nothing else', () => {
  for (const element of ['script', 'style']) {
    const texts = [...body.matchAll(new RegExp(`<${element}>([\\s\\S]*?)</${element}>`, 'g'))];
    expect(texts).toHaveLength(1);
    const hash = createHash('sha256').update(texts[0]![1]!).digest('base64');
    expect(policy).toContain(`${element}-src 'sha256-${hash}';`);
  }
  expect(policy).toMatch(/^default-src 'none';/);
  expect(policy).not.toMatch(/unsafe|\*|https?:/);
});

it('asks for nothing but its figures', () => {
  expect(body).not.toMatch(/\b(src|srcset)=|@import|url\(|<link rel="stylesheet"/);
  expect([...body.matchAll(/fetch\(([^,)]*)/g)].map(([, what]) => what)).toEqual(["'api/status'"]);
});

it('never makes markup of text', () => {
  expect(body).not.toMatch(/innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b/);
});
