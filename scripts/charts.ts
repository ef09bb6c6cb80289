/** Bars and lines as SVG, for BENCHMARKS.md. */
import { init } from 'echarts';

const SIZE = { width: 720, height: 300 } as const;
const FONT = { fontFamily: 'sans-serif' } as const;

export interface Bars {
  readonly title: string;
  readonly unit: string;
  /** From top to bottom. */
  readonly rows: readonly { readonly name: string; readonly value: number }[];
}

export interface Lines {
  readonly title: string;
  readonly xName: string;
  readonly yName: string;
  readonly series: readonly { readonly name: string; readonly points: readonly number[] }[];
}

export interface GroupedBars {
  readonly title: string;
  readonly unit: string;
  readonly scale: 'linear' | 'log';
  /** From left to right; each has a bar of every series. */
  readonly groups: readonly string[];
  readonly series: readonly {
    readonly name: string;
    /** By group; undefined: no bar. */
    readonly values: readonly (number | undefined)[];
  }[];
}

export function barsSvg({ title, unit, rows }: Bars): string {
  const shown = [...rows].reverse();
  return render({
    title: { text: title, textStyle: { fontSize: 14 } },
    grid: { left: 200, right: 60, top: 40, bottom: 40 },
    xAxis: { type: 'value', name: unit, nameLocation: 'middle', nameGap: 24 },
    yAxis: { type: 'category', data: shown.map(({ name }) => name) },
    series: [
      {
        type: 'bar',
        data: shown.map(({ value }) => value),
        label: { show: true, position: 'right' },
      },
    ],
  });
}

export function linesSvg({ title, xName, yName, series }: Lines): string {
  const longest = Math.max(...series.map(({ points }) => points.length));
  return render({
    title: { text: title, textStyle: { fontSize: 14 } },
    legend: { top: 28 },
    grid: { left: 70, right: 30, top: 60, bottom: 45 },
    xAxis: {
      ...{ type: 'category', name: xName, nameLocation: 'middle', nameGap: 26 },
      data: Array.from({ length: longest }, (_, i) => String(i + 1)),
    },
    yAxis: { type: 'value', name: yName, min: 0 },
    series: series.map(({ name, points }) => ({ type: 'line', name, data: [...points] })),
  });
}

export function groupedBarsSvg({ title, unit, scale, groups, series }: GroupedBars): string {
  return render({
    title: { text: title, textStyle: { fontSize: 14 } },
    legend: { top: 28 },
    grid: { left: 80, right: 30, top: 60, bottom: 90 },
    xAxis: { type: 'category', data: [...groups], axisLabel: { rotate: 40, interval: 0 } },
    yAxis: { type: scale === 'log' ? 'log' : 'value', name: unit },
    series: series.map(({ name, values }) => ({
      ...{ type: 'bar', name, data: values.map((value) => value ?? '-') },
    })),
  });
}

function render(option: object): string {
  const chart = init(null, null, { renderer: 'svg', ssr: true, ...SIZE });
  chart.setOption({ animation: false, backgroundColor: '#fff', textStyle: FONT, ...option });
  const svg = chart.renderToSVGString();
  chart.dispose();
  return `${svg}\n`;
}
