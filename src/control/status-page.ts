/**
 * The status page: one file, which says by the hashes of its own script and style that nothing else
 * may run or be loaded in it. Its figures come from `/api/status`, once a second.
 */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

export interface Page {
  readonly type: string;
  readonly body: string;
  readonly headers: Readonly<Record<string, string>>;
}

let page: Page | undefined;

/** Read when somebody wants to see it for the first time. */
export function statusPage(): Page {
  page ??= pageOf(readFileSync(new URL('./status-page.html', import.meta.url), 'utf8'));
  return page;
}

function pageOf(html: string): Page {
  const policy = [
    "default-src 'none'",
    `script-src ${hashOf(html, 'script')}`,
    `style-src ${hashOf(html, 'style')}`,
    "connect-src 'self'",
    // The empty picture that keeps browsers from asking for one.
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ');
  return {
    type: 'text/html; charset=utf-8',
    body: html,
    headers: { 'Content-Security-Policy': policy },
  };
}

/** CSP level 3 §2.3.1: of the text between the tags, byte for byte. */
function hashOf(html: string, element: 'script' | 'style'): string {
  const text = html.split(`<${element}>`)[1]?.split(`</${element}>`)[0] ?? '';
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
}
