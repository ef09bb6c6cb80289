/** Dashboard, alerts and their example: what they ask for is what a daemon tells. */

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { findPromtool } from '../../scripts/promtool.ts';
import { serveMetrics } from '../../src/control/metrics-server.ts';
import {
  hasPrometheusParser,
  type ParsedFamily,
  parseMetrics,
} from '../driver/prometheus-parser.ts';
import { promqlMetrics, promqlTokens } from '../driver/promql.ts';
import { deviceOf, StatusSource, statisticsOf } from '../driver/status-source.ts';

const FOLDER = fileURLToPath(new URL('../../scripts/monitoring/', import.meta.url));
const read = (name: string) => readFileSync(`${FOLDER}${name}`, 'utf8');

interface Panel {
  readonly type: string;
  readonly title: string;
  readonly gridPos: {
    readonly x: number;
    readonly y: number;
    readonly w: number;
    readonly h: number;
  };
  readonly targets?: readonly { readonly expr: string }[];
}
interface Dashboard {
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly { readonly definition?: string }[] };
}
interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: { readonly severity: string };
  readonly annotations: { readonly summary: string; readonly description: string };
}

const DASHBOARD = JSON.parse(read('grafana-dashboard.json')) as Dashboard;
const RULES = (parse(read('alerts.yaml')) as { groups: { rules: Rule[] }[] }).groups.flatMap(
  ({ rules }) => rules,
);
const QUERIES = [
  ...DASHBOARD.panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ expr }) => ({ where: `panel '${title}'`, expr })),
  ),
  ...DASHBOARD.templating.list.flatMap(({ definition }) => {
    const [, expr] = /^label_values\((.*), *\w+\)$/.exec(definition ?? '') ?? [];
    return expr === undefined ? [] : [{ where: `variable ${definition}`, expr }];
  }),
  ...RULES.map(({ alert, expr }) => ({ where: alert, expr })),
];

const promtool = findPromtool();
if (promtool === undefined) console.warn('alert rules: NOT TESTED, there is no promtool');

/** From a server, as Prometheus would have it: everything that can be told is. */
async function scrape(): Promise<string> {
  const statistics = statisticsOf({
    ...{ orig_data_size: 300, compr_data_size: 90, mem_used_total: 100 },
    ...{ backing_swap_name: '/dev/sdx1', num_reads: 17 },
  });
  const share = { guarantee: 1, used: 2, share: 3, refused: 4 };
  const source = new StatusSource(deviceOf('a', { statistics, share }));
  source.status = { ...source.status, budget: { limit: 10, committed: 5 } };
  const server = await serveMetrics('127.0.0.1:0', source);
  try {
    return await (await fetch(`${server.address}/metrics`)).text();
  } finally {
    server.close();
  }
}

describe('promqlMetrics', () => {
  it.each([
    ['up{job="ramzswap"} == 0', ['up']],
    ['rate(a_total[5m]) / on (device) group_left (x) b', ['a_total', 'b']],
    [
      'sum by (le, job) (rate(h_bucket{a=~"x|y", b!="\\"}"}[$__rate_interval] offset 5m))',
      ['h_bucket'],
    ],
    ['sum(x) without (y) > bool 1e3 and z unless 0x1f * w', ['x', 'z', 'w']],
    ["a:b:c{d='}'} # comment\n + `s`", ['a:b:c']],
    ['topk(5, m @ end()) or (n)', ['m', 'n']],
  ])('of %s', (expression, metrics) => {
    expect(promqlMetrics(expression)).toEqual(metrics);
  });

  it('refuses what is no PromQL', () => {
    expect(() => promqlTokens('a ; b')).toThrow(/no PromQL: ; b/);
    expect(() => promqlMetrics('sum(a{b="c"')).toThrow(/expected }/);
  });
});

describe.skipIf(!hasPrometheusParser)('what is asked for', () => {
  let families: ParsedFamily[];
  beforeAll(async () => {
    families = parseMetrics(await scrape(), 'prometheus');
  });

  it.each(QUERIES)('is told by a daemon: $where', ({ expr }) => {
    const told = new Set(families.flatMap(({ samples }) => samples.map(([name]) => name)));
    // Prometheus itself makes this one.
    told.add('up');
    const asked = promqlMetrics(expr);
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.filter((name) => !told.has(name))).toEqual([]);
  });

  it.each(QUERIES)('asks for rates of counters, and of nothing else: $where', ({ expr }) => {
    const of = (pattern: RegExp) => [...expr.matchAll(pattern)].map(([, name]) => name!);
    for (const name of of(/\b(?:rate|increase)\((\w+)/g)) expect(name).toMatch(/_total$|_bucket$/);
    for (const name of promqlMetrics(expr).filter((metric) => /_total$/.test(metric))) {
      const isSince = /^sum\(ramzswap_pages_read_failed_total/.test(expr);
      if (!isSince) expect(expr).toMatch(new RegExp(`(rate|increase)\\(${name}`));
    }
  });
});

describe('the dashboard', () => {
  it('has no panels that lie on each other or reach beyond its 24 columns', () => {
    const places = new Map<string, string>();
    for (const { title, gridPos } of DASHBOARD.panels) {
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24);
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect(places.get(`${x},${y}`), `${title}, and another at ${x},${y}`).toBeUndefined();
          places.set(`${x},${y}`, title);
        }
      }
    }
  });
});

describe('alerts', () => {
  it('say how bad it is, what it is, and what to do', () => {
    for (const { alert, labels, annotations } of RULES) {
      expect(alert).toMatch(/^Ramzswap[A-Z]/);
      expect(['critical', 'warning', 'info']).toContain(labels.severity);
      expect(annotations.summary).toMatch(/\{\{ (\$labels\.|\$value)/);
      expect(annotations.description).toMatch(/\.$/);
    }
  });

  it('are each tested', () => {
    const tests = read('alerts.test.yaml');
    expect(RULES.map(({ alert }) => alert).filter((alert) => !tests.includes(alert))).toEqual([]);
  });

  describe.skipIf(promtool === undefined)("in promtool's judgement", () => {
    const run = (...args: string[]) => execa(promtool!, args, { cwd: FOLDER, all: true });

    it('are well written, and the example is a configuration', async () => {
      expect((await run('check', 'rules', '--lint-fatal', 'alerts.yaml')).all).toMatch(/SUCCESS/);
      expect((await run('check', 'config', '--lint-fatal', 'prometheus.yaml')).all).toMatch(
        /SUCCESS/,
      );
    });

    it('come when they should, and only then', async () => {
      expect((await run('test', 'rules', 'alerts.test.yaml')).all).toMatch(/SUCCESS/);
    });

    it('are about metrics with names and help as they should be', async () => {
      const { stdout, stderr } = await execa(promtool!, ['check', 'metrics'], {
        input: await scrape(),
        reject: false,
      });
      expect(`${stdout}${stderr}`).toBe('');
    });
  });
});
