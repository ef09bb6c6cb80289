/** QEMU's own syntax: cases that were tried with QEMU 7.2, unless they say otherwise. */

import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/base/errors.ts';
import {
  escapeValue,
  isOn,
  readOptions,
  readProperties,
  readSize,
} from '../../src/control/qemu-options.ts';

const properties = (value: string) => Object.fromEntries(readProperties(value, 'type'));

describe('options', () => {
  it('begin with one dash or two, and other words are disk images', () => {
    expect(readOptions(['--m', '1G', 'disk.img', '-smp', '2'])).toEqual([
      { name: 'm', value: '1G' },
      { name: 'smp', value: '2' },
    ]);
  });

  it('take the next word whatever it looks like, but for those that take none', () => {
    expect(readOptions(['-append', '-m', '-snapshot', '-m', '2G'])).toEqual([
      { name: 'append', value: '-m' },
      { name: 'snapshot', value: '' },
      { name: 'm', value: '2G' },
    ]);
  });

  it('without the value that they want are left for QEMU to complain about', () => {
    expect(readOptions(['-S', '-m'])).toEqual([
      { name: 'S', value: '' },
      { name: 'm', value: '' },
    ]);
  });
});

describe('properties', () => {
  it('have names, but for the first, which has an implied one', () => {
    expect(properties('q35,usb=off,accel=kvm:tcg')).toEqual({
      type: 'q35',
      usb: 'off',
      accel: 'kvm:tcg',
    });
    expect(properties('usb=off')).toEqual({ usb: 'off' });
    expect(properties('q35,dump-guest-core')).toEqual({ type: 'q35', 'dump-guest-core': 'on' });
  });

  it('have commas in their values, written twice', () => {
    expect(properties('a,,b,path=/x,,y,,,z=1')).toEqual({ type: 'a,b', path: '/x,y,', z: '1' });
    expect(properties('path=a=b')).toEqual({ path: 'a=b' });
    expect(properties(`x,path=${escapeValue('/a,b,,c')}`).path).toBe('/a,b,,c');
  });

  it('may be JSON', () => {
    const json = '{"qom-type":"memory-backend-memfd","id":"m","share":true,"size":4096,"x":false}';
    expect(Object.fromEntries(readProperties(json, 'qom-type'))).toEqual({
      'qom-type': 'memory-backend-memfd',
      id: 'm',
      share: 'on',
      size: '4096',
      x: 'off',
    });
    expect(properties('{"a":')).toEqual({});
  });

  it.each([
    ['on', true],
    ['yes', true],
    ['true', true],
    ['y', true],
    ['off', false],
    ['no', false],
    [undefined, false],
  ])('%s is %s', (text, is) => {
    expect(isOn(text)).toBe(is);
  });
});

describe('sizes', () => {
  const MIB = 2 ** 20;
  it.each([
    ['512', 'M', 512 * MIB],
    ['512', 'B', 512],
    ['512M', 'B', 512 * MIB],
    ['512m', 'M', 512 * MIB],
    ['2G', 'M', 2048 * MIB],
    ['0.5G', 'M', 512 * MIB],
    ['1048576K', 'M', 1024 * MIB],
    ['536870912B', 'M', 512 * MIB],
    ['0x200', 'M', 512 * MIB],
    ['1T', 'M', 2 ** 40],
  ] as const)('%s in units of %s is %d bytes', (text, unit, bytes) => {
    expect(readSize(text, '-m', unit)).toBe(bytes);
  });

  it.each(['', '0', 'lots', '-1', '1Q', '99999E', '1G,'])(
    "'%s' is refused, saying where",
    (text) => {
      const read = () => readSize(text, '-m', 'M');
      expect(read).toThrow(UsageError);
      expect(read).toThrow(`-m: expected a size such as 512M or 2G, got '${text}'`);
    },
  );
});
