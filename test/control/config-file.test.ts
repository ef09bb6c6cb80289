/** The configuration file: what it may say, and where it says what it may not. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { parseConfig, readConfigFile } from '../../src/control/config-file.ts';

const folder = mkdtempSync(join(tmpdir(), 'rz-config-'));
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Each line is nine times the one before. */
const BOMB = [...'bcdefgh'].reduce(
  (lines, name, i) => `${lines}\n${name}: &${name} [${`*${'abcdefg'[i]}, `.repeat(9)}]`,
  'a: &a [x]',
);

const WHOLE = `# A host with two guests.
socket-dir: /run/ramzswap
budget: 8G
metrics: 127.0.0.1:9178
defaults:
  pool-limit: 1G
  on-new-guest: keep
devices:
  web1:
    disksize: 2G
    guarantee: 256M
  web2: { init: false, num-queues: 4 }
  web3:
`;

describe('a configuration file', () => {
  it('describes daemon, defaults and devices', () => {
    const { daemon, defaults, devices } = parseConfig(WHOLE, 'rz.yaml');
    expect(daemon).toEqual({
      'socket-dir': '/run/ramzswap',
      budget: 8 * 2 ** 30,
      metrics: '127.0.0.1:9178',
    });
    expect(defaults).toEqual({ 'pool-limit': 2 ** 30, 'on-new-guest': 'keep' });
    expect(
      [...devices].map(([name, { settings, isInitialised }]) => [name, settings, isInitialised]),
    ).toEqual([
      ['web1', { disksize: 2 ** 31, guarantee: 2 ** 28 }, true],
      ['web2', { 'num-queues': 4 }, false],
      ['web3', {}, true],
    ]);
  });

  it.each(['README.md', 'scripts/examples/ramzswapd.yaml'])('is what %s shows', (path) => {
    const text = readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
    const block = /^```yaml\n(.*?)^```/ms.exec(text)?.[1] ?? text;
    const { devices, daemon } = parseConfig(block, path);
    expect([devices.size > 1, daemon.budget]).toEqual([true, 8 * 2 ** 30]);
  });

  it('may be empty', () => {
    expect(parseConfig('# nothing\n', 'rz.yaml').devices.size).toBe(0);
  });

  it.each([
    ['socket-dir: [a', 'rz.yaml:1: '],
    ['a: 1\na: 2', 'rz.yaml:2: Map keys must be unique'],
    ['threads: 2\nsocketdir: /run', 'rz.yaml:2: socketdir: there is no such setting'],
    ['threads: many', 'rz.yaml:1: threads: expected number, got "many"'],
    ['threads: 0', 'rz.yaml:1: threads: expected a number from 1 to 64, got 0'],
    [
      'devices:\n  a:\n    disksize: 1G\n    dsk: 3',
      'rz.yaml:4: devices.a.dsk: there is no such setting',
    ],
    [
      'devices:\n  a: { disksize: 12Q }',
      "rz.yaml:2: devices.a.disksize: expected a size such as 512M or 2G, got '12Q'",
    ],
    [
      'devices:\n  a b: {}',
      "rz.yaml:2: devices: expected 1 to 20 printable characters without /, got 'a b'",
    ],
    ['devices: [a]', 'rz.yaml:1: devices: expected settings, got ["a"]'],
    ['defaults:\n  mlock: 7', 'rz.yaml:2: defaults.mlock: expected boolean, got 7'],
    [
      'defaults:\n  guest-page-size: 512',
      'rz.yaml:2: defaults.guest-page-size: expected one of 4096, 16384, 65536, got 512',
    ],
    [
      'log-level: lod',
      'rz.yaml:1: log-level: expected one of trace, debug, info, warn, error, fatal, silent, got "lod"',
    ],
    [
      'devices:\n  a: { on-new-guest: kept }',
      'rz.yaml:2: devices.a.on-new-guest: expected one of empty, keep, got "kept"',
    ],
    [
      'defaults:\n  guest-page-size: big',
      'rz.yaml:2: defaults.guest-page-size: expected one of 4096, 16384, 65536, got "big"',
    ],
    ['budget: [1]', 'rz.yaml:1: budget: expected a size such as 512M or 2G, got [1]'],
    ['devices:\n  web1: *nope', 'rz.yaml:2: Unresolved alias'],
    ['x: &x 1\ndevices:\n  web1: *x\n  web2: *nope\n  web3: *x', 'rz.yaml:4: Unresolved alias'],
    [BOMB, 'rz.yaml:8: Excessive alias count'],
    ['threads: &a [*a]', 'rz.yaml:1: threads: expected number, got something that contains itself'],
    ['['.repeat(100_000), 'rz.yaml'],
    ['take-over: true', 'rz.yaml:1: take-over: there is no such setting'],
    ['- a', 'rz.yaml:1: the file: expected settings, got ["a"]'],
  ])('%j is refused with its place', (text, reason) => {
    expect(() => parseConfig(text, 'rz.yaml')).toThrow(reason);
  });

  it('is refused when it cannot be read, with its path', () => {
    const path = join(folder, 'none.yaml');
    expect(() => readConfigFile(path)).toThrow(`configuration file: ENOENT`);
  });

  it('is refused when it is no configuration file by its size', () => {
    const path = join(tmpdir(), `rz-big-${process.pid}.yaml`);
    writeFileSync(path, '#'.repeat(2 ** 20 + 1));
    expect(() => readConfigFile(path)).toThrow('expected 1048576 bytes at most, got 1048577');
    rmSync(path);
  });
});
