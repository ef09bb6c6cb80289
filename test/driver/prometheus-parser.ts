/**
 * Prometheus' own Python library as the judge of what we say: Debian's python3-prometheus-client, in
 * the interpreter that Debian's packages belong to. Both formats have a parser of their own there.
 */

import { spawnSync } from 'node:child_process';
import type { MetricsFormat } from '../../src/control/metrics.ts';

const PYTHON = '/usr/bin/python3';
const MODULES = {
  prometheus: 'prometheus_client.parser',
  openmetrics: 'prometheus_client.openmetrics.parser',
} as const satisfies Record<MetricsFormat, string>;

export const hasPrometheusParser =
  spawnSync(PYTHON, ['-c', 'import prometheus_client']).status === 0;

export interface ParsedFamily {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  /** Name, labels, value; infinite ones as text. */
  readonly samples: readonly (readonly [string, Readonly<Record<string, string>>, number])[];
}

/** Throws with what the parser says where the text is not in the format. */
export function parseMetrics(text: string, format: MetricsFormat): ParsedFamily[] {
  const program = `
import json, sys
from ${MODULES[format]} import text_string_to_metric_families
print(json.dumps([
    {"name": f.name, "type": f.type, "help": f.documentation,
     "samples": [[s.name, s.labels, s.value] for s in f.samples]}
    for f in text_string_to_metric_families(sys.stdin.read())
]))`;
  const { status, stdout, stderr } = spawnSync(PYTHON, ['-c', program], {
    input: text,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`not ${format}: ${stderr.trim().split('\n').at(-1)}`);
  return JSON.parse(stdout) as ParsedFamily[];
}

/** The value of one sample, or undefined. */
export function sampleOf(
  families: readonly ParsedFamily[],
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const isWanted = (of: Readonly<Record<string, string>>) =>
    Object.entries(labels).every(([label, value]) => of[label] === value);
  return families
    .flatMap(({ samples }) => samples)
    .find(([sample, of]) => sample === name && isWanted(of))?.[2];
}
