/** What a unit's SystemCallFilter= allows, as systemd reads it: the sets come from systemd itself. */

import { execFileSync } from 'node:child_process';

/** The calls of a set (`@name`, sets in it unfolded), or the call itself. */
function callsOf(word: string): string[] {
  if (!word.startsWith('@')) return [word];
  const listing = execFileSync('systemd-analyze', ['syscall-filter', word], { encoding: 'utf8' });
  const members = listing
    .split('\n')
    .slice(1)
    .map((line) => line.trim());
  return members.filter((line) => line !== '' && !line.startsWith('#')).flatMap(callsOf);
}

/** systemd.exec(5): the first line makes it an allow list, a later one adds, with ~ takes away. */
export function allowedCalls(unit: string): Set<string> {
  const lines = [...unit.matchAll(/^SystemCallFilter=(~?)(.*)$/gm)];
  if (lines.length === 0 || lines[0]![1] === '~') throw new Error('the unit has no allow list');
  const allowed = new Set(callsOf('@default'));
  for (const [, takesAway, words] of lines) {
    for (const call of words!.split(/\s+/).flatMap(callsOf)) {
      if (takesAway === '~') allowed.delete(call);
      else allowed.add(call);
    }
  }
  return allowed;
}

/**
 * What makes a program run as if only these calls were allowed, others answered with EPERM and
 * written to `log`. The program keeps its process number: the tracer is a child of its own.
 */
export function filteredBy(allowed: ReadonlySet<string>, log: string): string[] {
  // `?`: not every call exists on every architecture.
  const others = `!${[...allowed].map((call) => `?${call}`).join(',')}`;
  return [
    ...['strace', '-D', '-f', '--seccomp-bpf', '-qqq', '-e', 'signal=none', '-o', log],
    ...['-e', `trace=${others}`, '-e', `inject=${others}:error=EPERM`, '--'],
  ];
}
