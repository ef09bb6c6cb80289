/** Groups by name: the system's own are found, others are not. */

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { groupId } from '../../src/native/group.ts';

it('finds every group of /etc/group by its name', () => {
  const lines = readFileSync('/etc/group', 'utf8').trim().split('\n');
  const groups = lines.map((line) => line.split(':'));
  expect(groups.length).toBeGreaterThan(10);
  for (const [name, , id] of groups) expect([name, groupId(name!)]).toEqual([name, Number(id)]);
});

it('finds none of a name that nobody has', () => {
  expect(groupId('no-such-group-here')).toBeUndefined();
  expect(groupId('')).toBeUndefined();
});
